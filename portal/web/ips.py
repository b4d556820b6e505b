from flask import Blueprint

blueprint = Blueprint("ips", __name__)
