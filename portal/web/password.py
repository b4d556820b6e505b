from flask import Blueprint

blueprint = Blueprint("password", __name__)
